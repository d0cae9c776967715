def html(profiles, path=None): pass
