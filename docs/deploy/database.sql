-- Once, as the administrator of PostgreSQL: psql -v password="$PASSWORD" -f database.sql
CREATE ROLE boxgate LOGIN PASSWORD :'password';
CREATE DATABASE boxgate OWNER boxgate ENCODING 'UTF8' TEMPLATE template0;
