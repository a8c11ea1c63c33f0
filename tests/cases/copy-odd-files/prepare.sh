mkdir -p tree/sub
echo one > tree/a; ln tree/a tree/b; ln tree/a tree/sub/c
: > tree/empty
truncate -s 3M tree/sparse; printf end >> tree/sparse
printf x > "$(printf 'tree/new\nline')"
printf x > 'tree/ünïcode 名前'
printf x > 'tree/back\slash'
printf x > 'tree/-dash'
printf x > 'tree/*star'
printf x > 'tree/trailing space '
printf x > "tree/$(printf 'n%.0s' $(seq 200))"
find tree -exec touch -h -d @1577934245 {} +
