CREATE TABLE planets (name TEXT PRIMARY KEY, radius INTEGER NOT NULL);
INSERT INTO planets VALUES ('Mercury', 2440), ('Venus', 6052), ('Earth', 6371), ('Mars', 3390),
  ('Jupiter', 69911), ('Saturn', 58232), ('Uranus', 25362), ('Neptune', 24622), ('Pluto', 1188);
