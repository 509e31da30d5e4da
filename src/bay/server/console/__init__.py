"""The console's sign-in: browsers get a cookie for a key or a code. `web.console_cookie` reads the cookie,
and `web.page_routes` serves the pages.
"""
