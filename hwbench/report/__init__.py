"""Records to text and to one offline HTML page. Pure functions of a saved result."""
