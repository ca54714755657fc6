"""What keeps a sweep alive: cells and who works on them, processes that meet and part, and what is kept on disk."""
