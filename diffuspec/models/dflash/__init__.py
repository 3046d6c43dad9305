"""Public drafters that read a target's hidden states: DFlash, DFlash 2 and DSpark, in the formats of their makers."""
