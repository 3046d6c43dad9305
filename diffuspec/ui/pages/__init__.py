"""One file a page: NAME and TITLE for the navigation, and `build(shared)`, called inside the page's tab."""
