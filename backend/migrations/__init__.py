"""The steps that brought the database to today's schema, oldest first."""
