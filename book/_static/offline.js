// A page opened from a folder may not read its neighbors: the search then lists titles only.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
