"""What a run came to: records, tables, pictures, a page."""
