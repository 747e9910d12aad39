-- A table of texts that compress as messages of a chat do: words of unequal frequency, phrases that
-- come again, random keys. `rows` is given by the benchmark.
SELECT setseed(0.5);
CREATE TEMPORARY TABLE word AS
SELECT number,
       string_agg(substr('etaoinsrhldcumfpgwyb', 1 + floor(20 * random() * random())::int, 1), '')
         AS text
FROM (
  SELECT number, generate_series(1, 2 + (number * 7 + number / 13) % 8)
  FROM generate_series(0, 5999) AS number
) AS letters
GROUP BY number;
INSERT INTO word
SELECT phrase, string_agg(text, ' ')
FROM (
  SELECT phrase, floor(6000 * power(random(), 3))::int AS number
  FROM generate_series(6000, 7999) AS phrase, generate_series(1, 2 + phrase % 5)
) AS picked
JOIN word USING (number)
GROUP BY phrase;
CREATE UNIQUE INDEX ON word (number);
ANALYZE word;
CREATE TABLE message AS
SELECT id, 1 + floor(20000 * random())::int AS chat, gen_random_uuid() AS key,
       (ARRAY['user', 'assistant', 'assistant', 'system'])[1 + id % 4] AS role,
       timestamptz '2026-01-01' + id * interval '7 seconds' AS written_at,
       left(text, 40 + floor(560 * random() * random())::int) AS text
FROM (
  SELECT place / 45 AS id, string_agg(word.text, ' ') AS text
  FROM (
    SELECT place, floor(8000 * power(random(), 3))::int AS number
    FROM generate_series(45, 45 + 45 * :rows - 1) AS place
  ) AS picked
  JOIN word USING (number)
  GROUP BY place / 45
) AS made;
ALTER TABLE message ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX ON message (key);
CREATE INDEX ON message (chat, written_at);
