"""What `infer` writes for people and programs: the player's page, annotated videos, subtitles, JSON Lines and COCO."""
