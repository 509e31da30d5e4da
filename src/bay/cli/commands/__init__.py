"""The commands of `bay`, a module for each group; parts that several commands share are one folder up."""
