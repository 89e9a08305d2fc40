"""Text tables and figures from evaluation rows and training records."""
