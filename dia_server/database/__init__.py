"""What has to outlive the process: jobs, the log of clips, who runs jobs. SQLite, or PostgreSQL by its URL."""
