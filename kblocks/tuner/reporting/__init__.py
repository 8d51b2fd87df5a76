"""All that shows a finished or running search but the terminal: the HTML report, TensorBoard."""
