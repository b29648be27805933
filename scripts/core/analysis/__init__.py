"""From metric files to tables, intervals and figures. Nothing here imports torch."""
