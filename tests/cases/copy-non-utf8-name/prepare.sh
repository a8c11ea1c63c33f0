mkdir tree
printf x > "$(printf 'tree/latin-\351')"
