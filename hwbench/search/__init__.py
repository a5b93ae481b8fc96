"""The outer search: what is not chosen layer by layer, with Optuna.

space.py      a space file, read and checked
points.py     the points of a space: counted, enumerated, asked of a sampler, turned into what is to be done
goals.py      objectives and constraints, from words to numbers
samplers.py   samplers by name, and how a run that was cut off goes on as if it had not been
ledger.py     the trials, in a database that survives a kill
loop.py       ask, try, tell, until the end
pruning.py    giving a training up before its end
candidates.py untrained networks ranked without labels; naswot.py is the child that scores one
outcome.py    the Pareto set, the best, importances
"""
