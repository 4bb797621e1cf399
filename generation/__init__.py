"""Text, one token at a time: ``search`` chooses, ``decoder`` feeds graphs, ``keras_decoder`` compiles one."""
