"""Images, folders, samples."""
