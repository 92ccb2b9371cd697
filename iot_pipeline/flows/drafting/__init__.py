"""Parts of `datasets new`: the table, its label, its columns, giveaways, known meanings and the draft's text."""
