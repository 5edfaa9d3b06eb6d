"""Deploys what a manifest names: an archive becomes a directory, with commands around it. Stretcher's job.

    manifest, template   what is asked for, in Stretcher's format
    options              what the configuration allows of it
    unpack               a program of its own, archive -> directory: `archive` opens it, `members` says what
                         may be in it, `links` where its links lead, and `tree` cannot write elsewhere
    sync                 that directory -> what `dest` is to be, by rsync's rules where files are excluded
    staging, exchange    the place beside `dest`, and the one rename that makes the new directory `dest`
    commands             pre, post, success and failure, and the log that the last two read
    deployment           the order of it all
    handler              the plug-in

`dest` is never written into. The new directory is made beside it and exchanged with it in one step; until all
`post` commands have succeeded the old one lies ready to be exchanged back, if need be by the next start.

This file imports nothing, so that `unpack` starts within milliseconds.
"""
