"""A reviewer's bundle of one lake: reports, tables, figures, prompts, answers, configuration, metadata; its proof."""
