mkdir -p tree/sub
echo f > tree/sub/f
chmod 2711 tree; chmod 1705 tree/sub
