"""Images: the rows that say which ones an owner has, the puller that brings them here, and their routes.

How an image is fetched and unpacked lies in `bay.images`, which knows no owner and no row.
"""
