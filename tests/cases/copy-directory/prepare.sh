mkdir -p tree/empty tree/closed
chmod 700 tree/closed
chmod 640 tree/a.txt
chmod 4755 tree/sub/b.txt
find . -exec touch -h -d @1577934245 {} +
