"""The intermediate representation: types, the graph and its five mutators, verification, printing, execution by definition."""
