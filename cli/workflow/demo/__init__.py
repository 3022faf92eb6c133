"""The demo: settings, stages, figures and page."""
