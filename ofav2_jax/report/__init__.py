"""Reads run directories and shows them: as records, as the paper's tables, as a page with pictures."""
