"""What each verb of the command line does, by what it is about; cli.VERBS says where."""
