"""`jobd doctor`: what this host offers to jobs, and whether its limits really hold."""
