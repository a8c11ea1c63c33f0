long=tree
for part in one two three four five six seven eight; do
  long=$long/$part-$(printf 'x%.0s' $(seq 40)); mkdir -p $long
  echo $part > $long/file.txt
done
ln -s $long/file.txt tree/link-to-a-long-path
