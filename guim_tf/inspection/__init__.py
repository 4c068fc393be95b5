"""`guim inspect`: what a data set holds, where its rows went, whether its time split is clean."""
