"""The truth about audits: tables, migrations and every query, on PostgreSQL and SQLite."""
