"""The parts of a report, from the text of data up to the page; `tuner.report` joins them."""
