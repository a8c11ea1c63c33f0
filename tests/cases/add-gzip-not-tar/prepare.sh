echo only text | gzip -n > text.gz
printf 'not gzip at all' > broken.tar.gz
touch -d @1577934245 text.gz broken.tar.gz
