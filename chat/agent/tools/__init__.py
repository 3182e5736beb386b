"""Tools that come with it, one file each: what is public in such a file is a tool. CHAT_TOOLS says which are there."""
