"""Is it worth it here? A diagnosis as a page of the app, and as a report to send."""
