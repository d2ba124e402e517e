"""Who speaks: voices as plain files that an admin can edit."""
