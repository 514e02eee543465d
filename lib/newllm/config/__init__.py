"""Every parameter of every notebook, typed."""
