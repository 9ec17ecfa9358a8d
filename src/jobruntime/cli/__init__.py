"""`jobc`, the command line: a module for each verb, loaded when it is called."""
