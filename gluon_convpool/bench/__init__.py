"""The benchmark: our layers against MXNet's and, if wanted, against other libraries.

``python -m gluon_convpool bench`` runs it; docs/BENCHMARK.md says how it measures.

==========  ====================================================================
suites      which layers, and how much work each is
sides       our layer and MXNet's as something that can be run and compared
peers       other libraries as the same, each in a process of its own
workers     what runs in those processes
machine     the limits of the machine, and which algorithm serves a layer
measure     takes turns, and keeps times only of those who compute the same
report      tables and the picture, from a results file
command     the command line
==========  ====================================================================
"""
