ln -s real way
