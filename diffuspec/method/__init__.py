"""The method as pure functions on arrays: lattice, proxy, search, acceptance, length."""
