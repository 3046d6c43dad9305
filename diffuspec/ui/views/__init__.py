"""What the page shows, as pure functions of a `Trace`; no Gradio, no model."""
