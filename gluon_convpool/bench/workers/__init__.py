"""One script for each peer, run by the interpreter of the peer's own environment.

None of them imports gluon_convpool, which is not installed there: they see the standard library,
NumPy, the peer and their neighbours in this folder. (No script may be called like the package that
it imports, because the folder of a script comes first on its search path.)
"""
