"""Other libraries' objects in this one's terms: one library a file, imported only when used."""
