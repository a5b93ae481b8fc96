"""What a search does with points and candidates: below the story of the search, above the pipelines that it uses.

attempt.py   one point tried
ranking.py   untrained candidates scored and timed
again.py     points timed again: the control, and the best in turns
"""
