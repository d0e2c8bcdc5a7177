# A node follows the master that the Sentinels know; at the very first start the first node is it.
set -eu
me="$(hostname).redis-node"
master=$(redis-cli -h redis-node -p 26379 --raw sentinel get-master-addr-by-name tidegate 2>/dev/null | head -n 1 || true)
case "$master" in *.redis-node) ;; *) master=redis-node-0.redis-node ;; esac
# Full, it lets go what was used longest ago of what ends by itself, which is remembered answers: they are bounded for
# each tenant, not in sum. Who waits and who holds a slot does not end so, and stays.
set -- redis-server --requirepass "$REDIS_PASSWORD" --masterauth "$REDIS_PASSWORD" --maxmemory 2gb \
    --maxmemory-policy volatile-lru --maxmemory-samples 10 --appendonly yes --dir /data --replica-announce-ip "$me"
[ "$master" = "$me" ] || set -- "$@" --replicaof "$master" 6379
exec "$@"
