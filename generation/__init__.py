"""Text, one token at a time: ``search`` chooses, ``decoder`` feeds a graph with a cache, ``keras_decoder`` compiles one."""
