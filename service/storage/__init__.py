"""Object storage: one small interface (`base`), a directory, S3, and which of them the settings ask for (`open`)."""
