"""Deploys what a manifest names: an archive becomes a directory, with commands around it, as Stretcher does.

    handler              the plug-in
    options              what the configuration allows
    manifest             what is to be deployed, in Stretcher's format
    deployment           one deploy: fetch, `pre`, unpack, sync, swap, `post`, `success` or `failure`
    hooks                runs the manifest's commands, and keeps the log that the last two read
    unpack               a separate program, archive -> directory: `archive` opens it, `members` decides what
                         may be in it, `extractor` writes it and cannot write elsewhere
    sync                 that directory -> the new `dest`, by rsync's rules where files are excluded
    swap                 the place beside `dest`, and the one step that makes the new directory `dest`

`dest` is never written into. The new directory is made beside it and swapped with it in one step; until all
`post` commands have succeeded the old one is kept, ready to be swapped back, by the next start if need be.

This file imports nothing, so that `unpack` starts within milliseconds.
"""
