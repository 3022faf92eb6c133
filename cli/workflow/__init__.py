"""What `demo` and `infer` are made of: stages that run commands and make again only what is out of date."""
